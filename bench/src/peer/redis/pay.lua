-- Pays for a reservation, completes its token and releases the other holds of the token.
-- KEYS: request, reservation, token, wallet, counts of the sale. The key of the seat is in the reservation. ARGV: user,
-- seconds for which the request is remembered. Returns the time of the payment in milliseconds since 1970.
local first = redis.call('GET', KEYS[1])
if first and first ~= KEYS[2] then return redis.error_reply('REQUEST_ID_CONFLICT') end
local v = redis.call('HMGET', KEYS[2], 'u', 's', 'e', 'p', 'x', 'y')
if v[1] ~= ARGV[1] then return redis.error_reply('RESERVATION_NOT_FOUND') end
if v[2] == 'P' then
    if not first then redis.call('SET', KEYS[1], KEYS[2], 'EX', ARGV[2]) end
    return tonumber(v[6])
end
local token = redis.call('HMGET', KEYS[3], 's', 'x', 'h')
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if token[1] ~= 'A' or tonumber(token[2]) <= now then return redis.error_reply('NOT_ADMITTED') end
if v[2] ~= 'H' or tonumber(v[5]) <= now then return redis.error_reply('RESERVATION_EXPIRED') end
local wallet = redis.call('HMGET', KEYS[4], 'b', 'n')
if not wallet[1] then return redis.error_reply('USER_NOT_FOUND') end
local balance, number = tonumber(wallet[1]) - tonumber(v[4]), tonumber(wallet[2]) + 1
if balance < 0 then return redis.error_reply('INSUFFICIENT_BALANCE') end
redis.call('HSET', KEYS[4], 'b', balance, 'n', number,
    number, 'PAYMENT|-' .. v[4] .. '|' .. balance .. '|' .. KEYS[2] .. '|' .. KEYS[1] .. '|' .. now)
for id in string.gmatch(token[3], '%S+') do
    if id ~= KEYS[2] then
        local other = redis.call('HMGET', id, 's', 'x', 'e')
        if other[1] == 'H' and tonumber(other[2]) > now then
            redis.call('HSET', id, 's', 'R')
            redis.call('DEL', other[3])
        end
    end
end
redis.call('HSET', KEYS[3], 's', 'C')
redis.call('HSET', KEYS[2], 's', 'P', 'y', now)
redis.call('SET', v[3], KEYS[2])
local sale = redis.call('HMGET', KEYS[5], 'sold', 'revenue')
redis.call('HSET', KEYS[5], 'sold', tonumber(sale[1] or '0') + 1, 'revenue', tonumber(sale[2] or '0') + tonumber(v[4]))
redis.call('SET', KEYS[1], KEYS[2], 'EX', ARGV[2])
return now
