"""Reading runs back: status, traces and the report."""
