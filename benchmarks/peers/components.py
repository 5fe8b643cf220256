"""Connected components by splink 5 or networkx, in their own environment; prints one JSON object."""

import json
import sys
import time
from importlib.metadata import version

import duckdb

name, path, n = sys.argv[1], sys.argv[2], int(sys.argv[3])
connection = duckdb.connect(config={"threads": 2})
if name == "networkx":
    import networkx as nx

    pairs = connection.execute(f"select a, b from '{path}'").fetchall()
    begun = time.perf_counter()
    graph = nx.Graph()
    graph.add_nodes_from(range(n))
    graph.add_edges_from(pairs)
    components = sum(1 for _ in nx.connected_components(graph))
    seconds = time.perf_counter() - begun
else:
    from splink import DuckDBAPI
    from splink.clustering import cluster_pairwise_predictions_at_threshold

    connection.execute(f"create table nodes as select range as unique_id from range({n})").fetchall()
    connection.execute(
        f"create table edges as select a as unique_id_l, b as unique_id_r from '{path}'"
    ).fetchall()
    api = DuckDBAPI(connection=connection)
    begun = time.perf_counter()
    found = cluster_pairwise_predictions_at_threshold("nodes", "edges", api, node_id_column_name="unique_id")
    seconds = time.perf_counter() - begun
    table = found.physical_name
    components = connection.execute(f"select count(distinct cluster_id) from {table}").fetchall()[0][0]
print(json.dumps({"seconds": seconds, "components": components, "version": version(name)}))
