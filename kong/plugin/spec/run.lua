-- Runs the unit tests of the plugin under LuaJIT, without nginx: `luajit run.lua PLUGIN_DIR LIBRARY_DIR [SPEC…]`.
-- `cargo test -p idempotency-lua-host --test spec` does so.

local plugin, library = arg[1], arg[2]
package.path = plugin .. "/?.lua;" .. plugin .. "/spec/?.lua;" .. package.path
package.cpath = library .. "/?.so;" .. package.cpath

-- What the modules find in nginx when they are loaded.
ngx = { null = setmetatable({}, { __tostring = function() return "null" end }), log = function() end, ERR = 4, WARN = 5 }

local passed, failed = 0, 0

local function show(value)
  return type(value) == "string" and string.format("%q", value) or tostring(value)
end

function equal(left, right, what)
  if left ~= right then
    error((what and what .. ": " or "") .. show(left) .. " is not " .. show(right), 2)
  end
end

function test(name, run)
  local ok, err = xpcall(run, debug.traceback)
  if ok then
    passed = passed + 1
  else
    failed = failed + 1
    io.stderr:write("FAILED ", name, "\n", tostring(err), "\n")
  end
end

local specs = { select(3, unpack(arg)) }
if #specs == 0 then
  specs = { "core_spec", "http_spec", "settings_spec", "schema_spec", "metrics_spec" }
end
for _, spec in ipairs(specs) do
  require(spec)
end
print(passed .. " passed, " .. failed .. " failed")
os.exit(failed == 0 and passed > 0 and 0 or 1)
