"""What a run directory holds: label rows, quarantine rows, receipts, the manifest. Imports no `engine`."""
