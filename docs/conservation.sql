select *, consumed - triggered - busy - redelivered - merged - unmatched - stale - invalid as gap from dispatcher.progress
