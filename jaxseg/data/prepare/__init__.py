"""Data sets as sharded ArrayRecord, in the layout of tensorflow-datasets and without TensorFlow.

`python -m jaxseg.data.prepare --help` tells how; `jaxseg.data.tfds_source` reads what it writes. From the ground up:

    layout      where files are               records     an image with its objects <-> a record
    library     the optional packages         inputs      a split before it is prepared
    options     the command line              lock        one writer at a place
    catalogue   COCO, LVIS, Cityscapes, own folders: their splits, files and published counts
    cityscapes  pictures of instance ids -> COCO's form
    checks      what is missing, and annotation files of another split
    shards      which records make up which file, and a file that is whole or not there
    plans       what a split is made from; a run that goes on must have the same
    index       what a split holds, for opening it without reading its records
    split       one split, from its checks to its index
    metadata    what tensorflow-datasets reads
    run         all of it, in order
"""
