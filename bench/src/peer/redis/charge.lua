-- Charges a wallet. The wallet is a hash with the balance b, the number of entries n, and the entries by their number.
-- KEYS: wallet, request. ARGV: user, amount, seconds for which the request is remembered. Returns the new balance.
local first = redis.call('GET', KEYS[2])
if first then
    local same = ARGV[1] .. '|' .. ARGV[2] .. '|'
    if string.sub(first, 1, #same) == same then return tonumber(string.sub(first, #same + 1)) end
    return redis.error_reply('REQUEST_ID_CONFLICT')
end
local wallet = redis.call('HMGET', KEYS[1], 'b', 'n')
if not wallet[1] then return redis.error_reply('USER_NOT_FOUND') end
local balance, number = tonumber(wallet[1]) + tonumber(ARGV[2]), tonumber(wallet[2]) + 1
local time = redis.call('TIME')
redis.call('HSET', KEYS[1], 'b', balance, 'n', number,
    number, 'CHARGE|' .. ARGV[2] .. '|' .. balance .. '|' .. KEYS[2] .. '|' .. time[1] .. time[2])
redis.call('SET', KEYS[2], ARGV[1] .. '|' .. ARGV[2] .. '|' .. balance, 'EX', ARGV[3])
return balance
