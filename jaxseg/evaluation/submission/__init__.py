"""Files for test servers: COCO's (`coco`) and Cityscapes' (`cityscapes`), checked before and after they are written.

`servers` knows which split belongs to which server; `python -m jaxseg.evaluation.submission` works on results files.
"""
