"""What is wrong with a data set: pure finders over what its files tell, and their report."""
