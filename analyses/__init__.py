"""The analyses, one module each: ``tuco``. All have ``run(pair, items, ...)`` and a result class."""
