"""Rules that spell an operator out in others, one module per family; run in a child, with the onnx package.

A rule is a function that takes a ``Draft``: the node, what is known of its tensors, and where the new nodes go. It
raises ``CannotSpellOut`` with the reason where the node is beyond it. Rules write for opset 13 and newer.
"""
