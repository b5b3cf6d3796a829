set plan_cache_mode = force_generic_plan; set enable_seqscan = off; set enable_bitmapscan = off; set work_mem = '32MB'
