//! Small storms, whose outcome is known.
