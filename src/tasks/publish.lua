-- Publishes a batch of messages once, whatever is retried and whichever replies are lost.
-- KEYS[1] the list; KEYS[2] the guard of this publication. ARGV[1] the guard's life in seconds; ARGV[2] in how many parts it is
-- published; ARGV[3…] the messages. Answers how many it pushed, or, if the guard is there, its number of parts as a negative.
local parts = redis.call('GET', KEYS[2])
if parts then
  return -tonumber(parts)
end
redis.call('SET', KEYS[2], ARGV[2], 'EX', ARGV[1])
-- Lua cannot unpack more than some thousands of values at once.
for first = 3, #ARGV, 500 do
  redis.call('LPUSH', KEYS[1], unpack(ARGV, first, math.min(first + 499, #ARGV)))
end
return #ARGV - 2
