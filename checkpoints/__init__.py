"""Weights on disk: checkpoints, the .tflite reader, the manifest, patching.

The checkpoint format, version 1
================================
A checkpoint is a safetensors file (https://github.com/huggingface/safetensors), so any
reader of those reads the tensors. What follows is enough to write one from nothing.

    8 bytes    n, the length of the table, uint64, little-endian
    n bytes    the table, JSON in UTF-8; spaces after it make 8 + n a multiple of 8
    the rest   the tensors' bytes, one after the other, without gaps or overlaps

The table is one object. Each key but `__metadata__` names a tensor and holds
`{"dtype": "F32", "shape": [3, 3, 8, 16], "data_offsets": [begin, end]}`, offsets
counted from the end of the table. Elements are little-endian, row-major. dtypes: F16
F32 F64, I8 I16 I32 I64, U8 U16 U32 U64, BOOL. Names are those of the model's variables:
`<layer>/<attribute>`, `<layer>/<attribute>/<slot>` for what an optimizer keeps, and
`step`. The writer lays tensors out by falling element size, then by name, so equal
content gives equal bytes and every tensor is aligned; a reader relies on neither.

`__metadata__` maps strings to strings, exactly these:

    "format"    "ondevice.checkpoint"
    "header"    JSON of one object with exactly these keys:
                  format_version  1
                  fingerprint     hex SHA-256 of the model that the tensors fit
                                  (`checkpoints.manifest.fingerprint`)
                  optimizer       object: "name" and its hyper-parameters
                  step            int, optimizer steps taken
                  epoch           int, epochs completed
                  seed            int, of the run
                  random_state    any JSON: the state of the run's generators, or null
                  classes         list of class names, in the order of the outputs
                  extra           object, any JSON: best metric, position in the epoch
    "crc32"     JSON of one object: tensor name -> CRC-32 of its bytes, 8 hex digits
    "checksum"  CRC-32, 8 hex digits, of the UTF-8 text
                  header + "\\n" + crc32 + "\\n" + described
                where `described` is the JSON list of [name, dtype, shape] of all
                tensors, sorted by name, in ASCII, without spaces

Together the two checksums cover every byte of meaning. CRC-32 (that of zlib) guards
against a bad disk or transfer, not against a forger; nor would any other checksum that
lies beside the data. It takes 3 ms for 13.6 MB where SHA-256 takes 8, on a processor
with instructions for it. One for each tensor, so that an error can name what is
damaged.

A reader refuses: a length that does not add up to the size of the file, a table over
`store.MAX_TABLE` bytes, gaps, overlaps, unknown dtypes, keys beyond those above, keys
that appear twice, checksums that differ. Not checked by the format: that the tensors
fit a model (`store.require` does that) and that numbers are finite (`store.save_file`
refuses to write others, `store.require` to accept them).

A file is written to a temporary name beside it, flushed, and renamed: `path` is at any
moment the old checkpoint or the new one.

TensorFlow's first format, which files built with --ops=select write, is told in
`checkpoints.tensorflow_v1`; `checkpoints.interchange` takes either.
"""
