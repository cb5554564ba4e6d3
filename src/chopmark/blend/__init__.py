"""Blend: EasyBlend, one model made of several.

In: unfitted models of any sort (EasyML, Seq2Win, your own) and a table with a label.
Out: a model again, with a weight for each part and contributions per part and per column.
Serves rows B10 to B15 of the requirements.
"""

from chopmark.blend.easyblend import EasyBlend
from chopmark.blend.firstlayer import Parts, Progress

__all__ = ["EasyBlend", "Parts", "Progress"]
