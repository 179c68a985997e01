"""The page for people, rendered here."""
