"""What is trained on PASCAL VOC: a backbone with a head for classes, boxes or masks; the examples it learns from."""
