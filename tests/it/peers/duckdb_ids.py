"""The ids of the records in Parquet files, as DuckDB reads them: one a line, and the same from the record's own text."""
import sys

import duckdb

rows = duckdb.connect().execute(
    "select proxy || '/' || epoch || '/' || worker || '/' || sequence, json_extract_string(record, '$.id') from read_parquet(?)",
    [sys.argv[1:]],
)
for column, record in rows.fetchall():
    if column != record:
        sys.exit("the columns say %s, the record %s" % (column, record))
    print(column)
