"""Settings of all tests that use the extension."""

from tests.torch.conftest import one_thread

__all__ = ["one_thread"]
