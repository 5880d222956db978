"""Scores of captions as the COCO caption evaluation (Chen et al. 2015, arXiv 1504.00325) computes them.

| file | what |
|---|---|
| `ptb.py` | its tokens, in Python |
| `cider.py` | CIDEr-D, in Python |
| `meteor.py` | METEOR, by the Java program that the package pycocoevalcap brings |
"""
