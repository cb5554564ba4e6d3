"""Graph: who paid whom on a chain, what that says of an address, and how it is kept up to date.

In come transfers (Ethereum ETL, Bitcoin ETL, any table of sender, receiver, amount, time) and
labels; out come a graph of flat arrays, behaviour, embeddings that follow new blocks, ways of
money to labels, verdicts on tokens. `transfers`, `ethereum`, `bitcoin` read, `addresses` and
`ledger` keep, `adjacency` lays out, `walks`, `skipgram`, `node2vec` and `repair` embed and go on,
`spectral` and `propagation` are beside it, `behaviour` counts, `rowfiles` writes what changed,
`paths` follows money, `labels` keeps who said what, `risks` answers who asks, `tokens` judges
tokens. No learner of tables is imported here.
Serves rows H1 to H16 and B16 of the requirements.
"""
