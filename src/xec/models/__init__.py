"""The network, file by file in the order of the data, and its composition root `build`.

Dimension names used in every signature and comment of this room:

    B  events           N  sensors           F  features per sensor
    C  channels         H, W  cells of a grid (rows, columns)
    T  tokens (faces)   D  width of a token  K  neighbours or queries

Data flow: frontend (raw readings to features) -> convnext for the four grid faces and hexgat for
the two hexagonal ones -> pooling to one token per face -> fusion (Transformer) -> heads.
"""
