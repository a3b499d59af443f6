"""Memory of an IPU, and the machines they come in."""

# GC200 and Bow have the same tiles and the same memory; Bow only runs faster (Graphcore's data sheets).
TILES = 1472
TILE_BYTES = 638_976
IPU_BYTES = TILES * TILE_BYTES  # 940,572,672 B = 897 MiB

IPUS_PER_MACHINE = 4  # M2000 and Bow-2000
PODS = (4, 16, 64)
LARGEST_MACHINE = 256  # IPUs of the largest pod that was sold; where searches end
MIB = 1 << 20


def machines(ipus: int) -> str:
    """The smallest installation with that many IPUs, in words."""
    if ipus == 1:
        return "1 IPU"
    count = -(-ipus // IPUS_PER_MACHINE)
    pod = next((f" of a POD{size}" for size in PODS if size >= ipus), "")
    return f"{ipus} IPUs: {count} machine{'s' if count > 1 else ''}{pod}"
