"""The pipeline from a frozen .tflite to one that trains on the device."""
