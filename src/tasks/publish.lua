-- Publishes a batch of messages once, whatever is retried and whichever replies are lost.
-- KEYS[1] the list; KEYS[2] the guard of this publication; KEYS[3...] guards of publications that the store knows to be published.
-- ARGV[1] the guard's life in seconds; ARGV[2] in how many parts the publication is published; ARGV[3] until when, in microseconds of
-- this server's clock, or 0; ARGV[4] the life of the known guards in seconds; ARGV[5...] the messages.
-- Answers how many messages it pushed; or, if the guard is there, its number of parts as a negative; or nothing if it is too late.
--
-- What a script has done before one of its commands fails stays done. So the guard counts only when it says a number of parts,
-- which it does once every message is in the list; and it is written before them too, with 0, so that a Redis that is full or
-- a user who may not write the guard is found out before the first message. Where the push fails (no permission for the list,
-- a key of another type), the guard stays at 0, and the next attempt pushes.
for key = 3, #KEYS do
  redis.call('SET', KEYS[key], '1', 'XX', 'EX', ARGV[4])
end
local parts = tonumber(redis.call('GET', KEYS[2]) or '0')
if parts > 0 then
  return -parts
end
-- A request that waited in a stopped server would push tasks whose lease is over, and their guard would keep newer ones out.
if ARGV[3] ~= '0' then
  local now = redis.call('TIME')
  if now[1] * 1000000 + now[2] > tonumber(ARGV[3]) then
    return false
  end
end
redis.call('SET', KEYS[2], '0', 'EX', ARGV[1])
-- Lua cannot unpack more than some thousands of values at once.
for first = 5, #ARGV, 500 do
  redis.call('LPUSH', KEYS[1], unpack(ARGV, first, math.min(first + 499, #ARGV)))
end
redis.call('SET', KEYS[2], ARGV[2], 'EX', ARGV[1])
return #ARGV - 4
