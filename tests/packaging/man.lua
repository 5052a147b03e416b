-- Markdown of docs/ -> a man page: literals are bold, as man-pages(7) wants it, tables are lists of
-- terms, because a terminal is too narrow for their columns, and links are their words.

function Code(code)
  return pandoc.Strong(code.text)
end

function Link(link)
  return link.content
end

local LEFT_OUT = "HTTP status"  -- of the exit codes: nothing that a command line sees

local function term(row, headers)
  local words = pandoc.utils.blocks_to_inlines(row[1])
  local notes = pandoc.List()
  for column = 2, #row - 1 do
    local header = pandoc.utils.stringify(headers[column])
    if header ~= LEFT_OUT then
      notes:extend({pandoc.Str(#notes == 0 and " (" or ", ")})
      if header == "default" and pandoc.utils.stringify(row[column]) ~= "required" then
        notes:extend({pandoc.Str("default: ")})
      end
      notes:extend(pandoc.utils.blocks_to_inlines(row[column]))
    end
  end
  words:extend(notes)
  if #notes > 0 then
    words:extend({pandoc.Str(")")})
  end
  return words
end

function Table(wide)
  local simple = pandoc.utils.to_simple_table(wide)
  local items = {}
  for _, row in ipairs(simple.rows) do
    table.insert(items, {term(row, simple.headers), {row[#row]}})
  end
  return pandoc.DefinitionList(items)
end
