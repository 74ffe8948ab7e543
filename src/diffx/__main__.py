from diffx.cli import main

main()
