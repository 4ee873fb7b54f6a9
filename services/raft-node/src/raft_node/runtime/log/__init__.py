"""The log on its way to the disk and out of it: kept, timed, and trimmed once nobody needs its beginning."""
