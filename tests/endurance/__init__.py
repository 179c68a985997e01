"""Long scenes and the checks that judge them."""
