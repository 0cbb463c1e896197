-- Holds a seat. The reservation is a hash with the user u, the seat e, the price p, the state s (H: held, P: paid, R:
-- released), the expiry x and the payment time y. The id of the request is also the id of the reservation. The key of
-- the seat names its reservation and expires with the hold.
-- KEYS: token, seat, reservation. ARGV: user, price, duration of a hold in milliseconds, maximum number of seats of a
-- user. Returns the expiry in milliseconds since 1970.
local first = redis.call('HMGET', KEYS[3], 'u', 'e', 'x')
if first[1] then
    if first[1] == ARGV[1] and first[2] == KEYS[2] then return tonumber(first[3]) end
    return redis.error_reply('REQUEST_ID_CONFLICT')
end
local token = redis.call('HMGET', KEYS[1], 's', 'x', 'h')
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if token[1] ~= 'A' or tonumber(token[2]) <= now then return redis.error_reply('NOT_ADMITTED') end
local count = 0
for id in string.gmatch(token[3] or '', '%S+') do
    local other = redis.call('HMGET', id, 's', 'x', 'e')
    if other[1] == 'H' and tonumber(other[2]) > now then
        if other[3] == KEYS[2] then return tonumber(other[2]) end
        count = count + 1
    end
end
if count >= tonumber(ARGV[4]) then return redis.error_reply('SEAT_LIMIT_EXCEEDED') end
local expiry = math.min(now + tonumber(ARGV[3]), tonumber(token[2]))
if not redis.call('SET', KEYS[2], KEYS[3], 'NX', 'PX', expiry - now) then return redis.error_reply('SEAT_HELD') end
redis.call('HSET', KEYS[3], 'u', ARGV[1], 'e', KEYS[2], 'p', ARGV[2], 's', 'H', 'x', expiry)
redis.call('HSET', KEYS[1], 'h', token[3] and (token[3] .. ' ' .. KEYS[3]) or KEYS[3])
return expiry
