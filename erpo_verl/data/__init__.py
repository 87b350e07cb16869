"""Problem sets: reading, mending, checking, and writing them as parquet in verl's schema."""
