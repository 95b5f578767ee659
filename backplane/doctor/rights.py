"""Rights: what a user must be allowed to do on the server, asked without doing it.

The server itself judges, by `redis.acl_check_cmd` (Redis 7.0, https://redis.io/docs/latest/develop/programmability/lua-api/):
an ACL is not read here, and needs no right to be read.
"""

from __future__ import annotations

from typing import Any

from redis.asyncio import Redis

from backplane.keys import Keys

OF_KEYS = (
    "EXISTS", "DEL", "UNLINK", "EXPIRE", "PEXPIRE", "PTTL", "SET", "GET", "GETRANGE", "APPEND", "STRLEN", "HSET",
    "HSETNX", "HGET", "HMGET", "HGETALL", "HDEL", "HEXISTS", "HINCRBY", "RPUSH", "LPUSH", "LPOP", "BLPOP", "LRANGE",
    "LREM", "LLEN", "LINDEX", "LTRIM", "ZADD", "ZREM", "ZCARD", "ZSCORE", "ZRANK", "ZRANGE", "ZRANGEBYSCORE",
    "ZREVRANGEBYSCORE", "ZREMRANGEBYSCORE", "ZPOPMIN", "XADD", "XDEL", "XRANGE", "XREVRANGE",
)  # fmt: skip
"""Commands with a key of the prefix."""
OF_CHANNELS = ("SPUBLISH", "SSUBSCRIBE", "SUNSUBSCRIBE")
OF_NOTHING = ("PING", "INFO", "TIME", "MULTI", "EXEC", "SELECT 0", "SCRIPT LOAD x")
OF_CLUSTERS = ("CLUSTER SLOTS", "CLUSTER INFO", "ASKING")
_ASK = """
local lacks = {}
for _, line in ipairs(ARGV) do
    local words = {}
    for word in string.gmatch(line, '%S+') do words[#words + 1] = word end
    -- a command that this server does not have is an error, and no question of rights
    local known, may = pcall(redis.acl_check_cmd, unpack(words))
    if known and not may then lacks[#lacks + 1] = line end
end
return lacks
"""


async def lacking(redis: Redis, prefix: str, *, cluster: bool) -> tuple[str, ...]:
    """Return what our user may not do at one server, such as `XADD` or `SPUBLISH threadline:…`.

    Raises:
        redis.ResponseError: when the server cannot say, or the user may run no script.
    """
    keys = Keys(prefix, 1)
    key, channel = keys.doorbell, f"{prefix}:{{0}}:control"
    # the key stands in each place where a command could look for one
    asked = {f"{name} {key} {key}": name for name in OF_KEYS}
    asked |= {f"EVALSHA {'0' * 40} 1 {key}": "EVALSHA"}
    asked |= {f"{name} {channel}": f"{name} {channel}" for name in OF_CHANNELS}
    asked |= {line: line for line in (*OF_NOTHING, *(OF_CLUSTERS if cluster else ()))}
    answer: Any = await redis.eval(_ASK, 0, *asked)
    return tuple(asked[line.decode()] for line in answer)
