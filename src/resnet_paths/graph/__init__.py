"""A model's forward pass as a graph, and the residual blocks in it: the layer that every other package builds on.

Two front ends produce a :class:`~resnet_paths.graph.program.Program`: `tracing` follows a model symbolically,
`recording` writes down one run. `dataflow` and `blocks` find the residual blocks, `pieces` cuts the graph at them,
`compile_node` and `executor` run it, `drop_sites`, `drop_plan` and `rewriting` write a forward without some of the
blocks. Import from the modules; nothing here is private to this package.
"""
