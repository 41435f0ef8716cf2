"""The container engines' records on the node, read into `crannog.las.record`."""
