"""gensim's Word2Vec on walks in a .npy file, in an environment of its own; see embeddings.py.

words.py WALKS DIM SEED OUT       prints seconds of processor, with the building of its
                                  vocabulary and the handing over of words, without reading
"""

import json
import sys
from time import process_time

import numpy as np
from gensim.models import Word2Vec

walks, dim, seed, out = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
array = np.load(walks)
sentences = [[str(node) for node in row if node >= 0] for row in array]
began = process_time()
model = Word2Vec(
    sentences, vector_size=dim, window=5, negative=5, sg=1, hs=0, min_count=0, sample=0, workers=1,
    epochs=1, alpha=0.025, min_alpha=0.0001, seed=seed,
)  # fmt: skip
seconds = process_time() - began
vectors = np.zeros((int(array.max()) + 1, dim), dtype=np.float32)
vectors[[int(word) for word in model.wv.index_to_key]] = model.wv.vectors
np.save(out, vectors)
print(json.dumps({"seconds": seconds}))
