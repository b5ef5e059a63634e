"""What can go wrong and a user can mend: one base class, one clear sentence each."""


class AttributionError(Exception):
    """Base of all errors of this library: the message says what, where, and what to do."""


class ConfigurationError(AttributionError):
    """A setting is unknown, misspelt, out of range, or does not fit another one."""


class DataError(AttributionError):
    """An image, label or dataset cannot be used as it is."""


class StoreError(AttributionError):
    """A store is missing, incomplete, damaged, or was made with other settings."""


class NumericalError(AttributionError):
    """A value that must be finite or non-zero is not."""
