"""The operations of this package."""
