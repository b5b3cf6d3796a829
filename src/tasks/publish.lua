-- Publishes a batch of messages once, whatever is retried and whichever replies are lost.
-- KEYS[1] the list; KEYS[2] the guard of this publication. ARGV[1] the guard's life in seconds; ARGV[2] in how many parts it is
-- published; ARGV[3...] the messages. Answers how many it pushed, or, if the guard is there, its number of parts as a negative.
--
-- What a script has done before one of its commands fails stays done. So the guard counts only when it says a number of parts,
-- which it does once every message is in the list; and it is written before them too, with 0, so that a Redis that is full or
-- a user who may not write the guard is found out before the first message. Where the push fails (no permission for the list,
-- a key of another type), the guard stays at 0, and the next attempt pushes.
local parts = tonumber(redis.call('GET', KEYS[2]) or '0')
if parts > 0 then
  return -parts
end
redis.call('SET', KEYS[2], '0', 'EX', ARGV[1])
-- Lua cannot unpack more than some thousands of values at once.
for first = 3, #ARGV, 500 do
  redis.call('LPUSH', KEYS[1], unpack(ARGV, first, math.min(first + 499, #ARGV)))
end
redis.call('SET', KEYS[2], ARGV[2], 'EX', ARGV[1])
return #ARGV - 2
