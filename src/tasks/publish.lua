-- Publishes a batch of messages once, whatever is retried and whichever replies are lost.
-- KEYS[1] the list; KEYS[2] the guard of this publication. ARGV[1] the guard's life in seconds; ARGV[2…] the messages.
if not redis.call('SET', KEYS[2], '1', 'NX', 'EX', ARGV[1]) then
  return -1
end
-- Lua cannot unpack more than some thousands of values at once.
for first = 2, #ARGV, 500 do
  redis.call('LPUSH', KEYS[1], unpack(ARGV, first, math.min(first + 499, #ARGV)))
end
return #ARGV - 1
