"""Read image, mask and DICOM files as arrays that mean the same for every format."""
