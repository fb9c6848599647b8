"""What MediaPipe's own graphs make of pictures; run by an interpreter that has it.

    python mediapipe_palms.py REQUESTS.json

REQUESTS.json is {"pictures": an .npz, "requests": [...]}. Each request names the
pictures it is about, `keys`, and one of three graphs:
  {"complexity": 0 or 1}  the package's hand graph: its palm detections, palm_lite's or
                          palm_full's
  {"detector": {...}}     the same calculators around another detector; see `_DETECTOR`
  {"tensor": size}        ImageToTensorCalculator alone
The last line of stdout is a JSON list, for each request a list with an entry for each
picture: a list of {"score", "box", "keypoints"} in units of the picture, or the SHA-256
of the tensor as bytes.

Source of the graphs: mediapipe/modules/palm_detection/palm_detection_cpu.pbtxt and
mediapipe/modules/face_detection/face_detection.pbtxt of the same release.
"""

import hashlib
import json
import sys

import numpy as np
from google.protobuf import text_format
from mediapipe.calculators.tensor import (
    image_to_tensor_calculator_pb2,
    inference_calculator_pb2,
    tensors_to_detections_calculator_pb2,
)
from mediapipe.calculators.tflite import ssd_anchors_calculator_pb2
from mediapipe.calculators.util import non_max_suppression_calculator_pb2
from mediapipe.framework import calculator_pb2
from mediapipe.python import solution_base

# Importing them is what makes their names known to the text format.
_EXTENSIONS = (
    image_to_tensor_calculator_pb2,
    inference_calculator_pb2,
    tensors_to_detections_calculator_pb2,
    ssd_anchors_calculator_pb2,
    non_max_suppression_calculator_pb2,
)

_HANDS = "mediapipe/modules/hand_landmark/hand_landmark_tracking_cpu.binarypb"

_TO_TENSOR = """
input_stream: "IMAGE:image"
node {
  calculator: "ImageToTensorCalculator"
  input_stream: "IMAGE:image"
  output_stream: "TENSORS:input"
  output_stream: "LETTERBOX_PADDING:padding"
  options { [mediapipe.ImageToTensorCalculatorOptions.ext] {
    output_tensor_width: %(size)d output_tensor_height: %(size)d
    keep_aspect_ratio: true
    output_tensor_float_range { min: %(low)f max: %(high)f }
    border_mode: BORDER_ZERO
  } }
}
"""

_TENSOR = _TO_TENSOR + """
output_stream: "FLOATS:floats"
node {
  calculator: "TensorsToFloatsCalculator"
  input_stream: "TENSORS:input"
  output_stream: "FLOATS:floats"
}
"""

_DETECTOR = _TO_TENSOR + """
output_stream: "DETECTIONS:detections"
node {
  calculator: "InferenceCalculator"
  input_stream: "TENSORS:input"
  output_stream: "TENSORS:outputs"
  options { [mediapipe.InferenceCalculatorOptions.ext] {
    model_path: "%(model)s" delegate { xnnpack {} }
  } }
}
node {
  calculator: "SsdAnchorsCalculator"
  output_side_packet: "anchors"
  options { [mediapipe.SsdAnchorsCalculatorOptions.ext] {
    num_layers: %(layers)d %(strides)s
    min_scale: %(min_scale)f max_scale: 0.75
    input_size_width: %(size)d input_size_height: %(size)d
    anchor_offset_x: 0.5 anchor_offset_y: 0.5
    aspect_ratios: 1.0 interpolated_scale_aspect_ratio: %(ratio)f
    fixed_anchor_size: true
  } }
}
node {
  calculator: "TensorsToDetectionsCalculator"
  input_stream: "TENSORS:outputs"
  input_side_packet: "ANCHORS:anchors"
  output_stream: "DETECTIONS:unfiltered"
  options { [mediapipe.TensorsToDetectionsCalculatorOptions.ext] {
    num_classes: 1 num_boxes: %(anchors)d num_coords: %(coordinates)d
    keypoint_coord_offset: 4 num_keypoints: %(keypoints)d num_values_per_keypoint: 2
    sigmoid_score: true score_clipping_thresh: 100.0 reverse_output_order: true
    x_scale: %(size)f y_scale: %(size)f w_scale: %(size)f h_scale: %(size)f
    min_score_thresh: 0.5
  } }
}
node {
  calculator: "NonMaxSuppressionCalculator"
  input_stream: "unfiltered"
  output_stream: "filtered"
  options { [mediapipe.NonMaxSuppressionCalculatorOptions.ext] {
    min_suppression_threshold: 0.3
    overlap_type: INTERSECTION_OVER_UNION
    algorithm: WEIGHTED
  } }
}
node {
  calculator: "DetectionLetterboxRemovalCalculator"
  input_stream: "DETECTIONS:filtered"
  input_stream: "LETTERBOX_PADDING:padding"
  output_stream: "DETECTIONS:detections"
}
"""


def _graph(request):
    """The graph of a request and the name of its one output."""
    if "complexity" in request:
        return (
            solution_base.SolutionBase(
                binary_graph_path=_HANDS,
                side_inputs={
                    "model_complexity": request["complexity"],
                    "num_hands": 1000,  # More than there are: none is cut off.
                    "use_prev_landmarks": False,  # Each picture for itself.
                },
                outputs=["palm_detections"],
            ),
            "palm_detections",
        )
    if "tensor" in request:
        text = _TENSOR % {"size": request["tensor"], "low": 0, "high": 1}
        return _parsed(text, "floats", solution_base.PacketDataType.FLOAT_LIST)
    text = _DETECTOR % request["detector"]
    return _parsed(text, "detections", solution_base.PacketDataType.PROTO_LIST)


def _parsed(text, output, kind):
    graph = text_format.Parse(text, calculator_pb2.CalculatorGraphConfig())
    hints = {output: kind, "image": solution_base.PacketDataType.IMAGE}
    return (
        solution_base.SolutionBase(
            graph_config=graph, outputs=[output], stream_type_hints=hints
        ),
        output,
    )


def _plain(output, found):
    if output == "floats":
        levels = np.rint(np.array(found, np.float64) * 255).astype(np.uint8)
        return hashlib.sha256(levels.tobytes()).hexdigest()
    detections = []
    for detection in found or []:
        location = detection.location_data
        box = location.relative_bounding_box
        detections.append(
            {
                "score": detection.score[0],
                "box": [
                    *(box.xmin, box.ymin),
                    *(box.xmin + box.width, box.ymin + box.height),
                ],
                "keypoints": [[p.x, p.y] for p in location.relative_keypoints],
            }
        )
    return detections


def main(path):
    with open(path, encoding="utf-8") as file:
        asked = json.load(file)
    with np.load(asked["pictures"]) as archive:
        pictures = dict(archive)
    answers = []
    for request in asked["requests"]:
        graph, output = _graph(request)
        answers.append(
            [
                _plain(output, getattr(graph.process(pictures[key]), output))
                for key in request["keys"]
            ]
        )
        graph.close()
    print(json.dumps(answers))


if __name__ == "__main__":
    main(sys.argv[1])
