"""Makes the architecture catalogue from the installed transformers; needed to make it only.

``python -m adaptrix.loader.catalogue`` builds every model type on torch's meta device from
its default and from varied configurations, and writes every module's path and the formula
of its shape where ``adaptrix.convert.architecture.catalogue`` reads them without torch.
"""
