"""Public path of `Manifest`."""

from exportloss.runtime.artifact.manifest import MANIFEST_NAME, FileEntry, Manifest, describe_file

__all__ = ["MANIFEST_NAME", "FileEntry", "Manifest", "describe_file"]
