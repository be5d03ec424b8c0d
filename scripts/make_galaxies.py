"""Writes the 1,500 simulated galaxies that travel inside the package: aion_lite/data/files/galaxies.parquet.

    pip install bagpipes galsim     (300 MB; bagpipes is GPL-3, so it is used here and never copied from)
    python scripts/make_galaxies.py

A minute on one core. The file holds what ``simulate_galaxies(1500, seed=0)`` gives, galaxy for galaxy.
"""

import pyarrow.parquet as pq

from aion_lite.data.galaxies import FILE, PARTS, simulate_table

if __name__ == "__main__":
    table = simulate_table(0, PARTS["test"].stop, seed=0)
    pq.write_table(
        table,
        FILE,
        compression="zstd",
        compression_level=19,
        use_dictionary=False,  # measured numbers hardly repeat
        store_schema=False,  # no metadata, no dates: the same pyarrow writes the same bytes
    )
    print(f"{FILE.name}: {table.num_rows} galaxies, {FILE.stat().st_size:,} bytes")
