"""Read image, mask and DICOM files as arrays that are independent of the file format."""
