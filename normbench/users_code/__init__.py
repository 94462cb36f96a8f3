"""Classes and functions of the user's: in a file, in a package, or given in Python."""

from normbench.users_code.found import Own, content_of, find_own, is_own, users_code
from normbench.users_code.given import Make, given_name

__all__ = ["Make", "Own", "content_of", "find_own", "given_name", "is_own", "users_code"]
