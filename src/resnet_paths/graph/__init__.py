"""A model's forward pass as a graph, and the residual blocks in it: the ground floor that all other packages stand on.

Two front ends make a :class:`~resnet_paths.graph.program.Program`: `tracing` follows a model symbolically, `recording`
writes down one run. `dataflow` and `blocks` find the residual blocks, `pieces` cuts the graph at them, `compile_node`
and `executor` run it. Import from the modules; nothing here is private to this package.
"""
