-- The server's own clock. The first part of every script about records.

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
