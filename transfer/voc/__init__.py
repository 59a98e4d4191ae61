"""PASCAL VOC beyond its labels: boxes, masks, and regions proposed for objects."""
