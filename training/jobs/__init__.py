"""Jobs in folders, as NVFLARE's format 2 has them: what writes one, what reads one, and who is who in its files."""
