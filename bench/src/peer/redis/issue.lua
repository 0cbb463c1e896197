-- Issues a token, or returns the number of the user's live token. The token is a hash with the state s (W: waiting, A:
-- admitted, C: completed), the number n, the issue time i, the expiry x and the reservations h.
-- KEYS: token, wallet, queue. ARGV: user. Returns the number in the queue. The queue keeps admitted users.
local token = redis.call('HMGET', KEYS[1], 's', 'n', 'x')
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if token[1] == 'W' or (token[1] == 'A' and tonumber(token[3]) > now) then return tonumber(token[2]) end
if redis.call('EXISTS', KEYS[2]) == 0 then return redis.error_reply('USER_NOT_FOUND') end
local number = redis.call('RPUSH', KEYS[3], ARGV[1])
redis.call('HSET', KEYS[1], 's', 'W', 'n', number, 'i', now)
return number
