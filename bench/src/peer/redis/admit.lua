-- Admits the next users of a queue. KEYS: queue, counts of the sale. ARGV: start of the keys of tokens, number of
-- users, duration of an admission in milliseconds. Returns the number of admitted users.
local time = redis.call('TIME')
local expiry = time[1] * 1000 + math.floor(time[2] / 1000) + tonumber(ARGV[3])
local first = tonumber(redis.call('HGET', KEYS[2], 'admitted') or '0')
local users = redis.call('LRANGE', KEYS[1], first, first + tonumber(ARGV[2]) - 1)
for _, user in ipairs(users) do redis.call('HSET', ARGV[1] .. user, 's', 'A', 'x', expiry) end
redis.call('HSET', KEYS[2], 'admitted', first + #users)
return #users
