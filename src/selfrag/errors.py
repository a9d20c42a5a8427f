"""Every error that selfrag raises on purpose.

    SelfRAGError                  exit code 1: ours, or the machine's
    ├── UserError                 exit code 2: the caller can mend it by asking differently
    │   ├── BadInput              a question, option or file that cannot be used
    │   ├── IndexNotUsable        no index there, or it is damaged, or empty
    │   │   └── IndexMismatch     built with another encoder than the one that queries it
    │   └── ConfigError           unknown key or value out of range
    ├── AssetError                a model or corpus package is missing, altered or unreachable
    ├── MissingPackage            an extra that the request needs is not installed
    ├── EngineError               a language model back end failed
    └── StorageError              a file could not be written or read

Each message is one sentence: what was being done, what was found, what was expected, what to do.
"""


class SelfRAGError(Exception):
    """Root of the tree; `exit_code` is what the command line ends with."""

    exit_code = 1


class UserError(SelfRAGError):
    """The request cannot be met as asked; asking differently mends it."""

    exit_code = 2


class BadInput(UserError):
    """A question, option or file that cannot be used as given."""


class IndexNotUsable(UserError):
    """An index folder that is absent, damaged or empty."""


class IndexMismatch(IndexNotUsable):
    """An index built with another encoder than the one that would query it."""


class ConfigError(UserError):
    """A setting that does not exist or is out of range."""


class AssetError(SelfRAGError):
    """A model or corpus package that is missing, altered or out of reach."""


class MissingPackage(SelfRAGError):
    """A package that the request needs and that is not installed; the sentence names the extra."""


class EngineError(SelfRAGError):
    """A language model back end that failed or answered nonsense."""


class StorageError(SelfRAGError):
    """A file that could not be written or read: no space, no permission."""
