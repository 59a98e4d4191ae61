"""Labels of parts of images, in the formats of several data sets: boxes, masks, and regions proposed for objects.

voc:YEAR:PART:FOLDER     PASCAL VOC, see ``pretext.data.voc``
coco:FILE.json:IMAGES    COCO's JSON, see ``transfer.labels.coco``
yolo:IMAGES              a text file for each image, see ``transfer.labels.yolo``
masks:IMAGES:MASKS       an image of class numbers for each image, see ``transfer.labels.maps``
instances:IMAGES:MAPS    an image of object numbers for each image, see ``transfer.labels.maps``
"""
